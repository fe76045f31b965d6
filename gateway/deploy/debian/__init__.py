"""The Debian package: `python3 run.py deb` builds it, with Python's standard library, pip and dpkg-deb.

`python_environment` makes what is installed in /opt/fleetpush, `shared_objects` finds out which of the system's
libraries that needs, `package` puts the rest around it. Beside them are the files of the package that are what they
are: maintainer scripts, the manual page, the copyright.
"""
