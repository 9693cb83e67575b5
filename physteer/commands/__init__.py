"""Commands that need no trainer; each module has a `main(args)`."""
