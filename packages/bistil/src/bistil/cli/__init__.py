"""The commands: what is typed becomes the arguments of one public function each."""
