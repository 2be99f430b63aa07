"""One file a method; a file in this folder is all it takes to add one."""
