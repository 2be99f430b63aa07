"""One file an allocation; a file in this folder is all it takes to add one."""
