"""Where the examples of tasks lie: a local folder or the Hub, and how their files are read."""
