"""QR codes of enrolment addresses, as SVG: for a page that shows one to whoever stands before the device.

Drawn with one path, so a code is some kilobytes, and as sharp as the screen. It has no size of its own: whoever shows
it decides.
"""

from __future__ import annotations

from typing import Final

CORRECTION: Final = "m"
"""A code may lose a sixth of itself to a scratch or a reflection."""
QUIET_MODULES: Final = 4
"""Width of the white border (ISO/IEC 18004)."""
DRAWN_CODES = 20
"""Codes that one request may have drawn, 5 to 10 ms each: a page shows a few. Labels are for `devices invite`."""


def qr_svg(url: str) -> str:
    """Draw an address as an SVG document, black on white. Takes 5 to 10 ms."""
    import segno  # a server that draws none need not have it in memory

    code = segno.make_qr(url, error=CORRECTION, boost_error=False)
    drawn: str = code.svg_inline(border=QUIET_MODULES, light="#fff", omitsize=True)
    return drawn
