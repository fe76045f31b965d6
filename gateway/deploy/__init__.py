"""The ways in which a server gets onto a machine: units of systemd, a Debian package, a container image.

`debian` builds the package, for a checkout only: what is installed does without it. `settings_file` writes the file of
settings that both come with.
"""
