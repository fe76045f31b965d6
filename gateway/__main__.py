"""`python -m gateway` is `fleetpush`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
