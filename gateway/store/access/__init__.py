"""Apps, their keys, and the tokens of devices, as rows."""
