"""What an exported folder is served by: a file for each kind of model, written beside the graph as one program."""
