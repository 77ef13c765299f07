"""One function a command; plain, importable, never prints."""
