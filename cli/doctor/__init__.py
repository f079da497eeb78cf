"""What `gristmill doctor` looks at. Each check tells what it found and, where that is wrong, how to mend it."""
