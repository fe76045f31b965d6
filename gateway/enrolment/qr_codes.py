"""QR codes of enrolment addresses, and such a code as SVG: for a page that shows one to whoever stands at the device.

Labels are drawn of the same codes (`cli/code_sheets`). The SVG has one path, so it is some kilobytes, and as sharp as
the screen. It has no size of its own: whoever shows it decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import segno

CORRECTION: Final = "m"
"""A code may lose a sixth of itself to dirt, a scratch or a reflection."""
QUIET_MODULES: Final = 4
"""Width of the white border (ISO/IEC 18004)."""
DRAWN_CODES = 20
"""Codes that one request may have drawn, 5 to 10 ms each: a page shows a few. Labels are for `devices invite`."""


def qr_code(url: str) -> segno.QRCode:
    """Make the QR code of an address, to be drawn with QUIET_MODULES around it. Takes some milliseconds."""
    import segno  # a server that draws none need not have it in memory

    return segno.make_qr(url, error=CORRECTION, boost_error=False)


def qr_svg(url: str) -> str:
    """Draw an address as an SVG document, black on white. Takes 5 to 10 ms."""
    drawn: str = qr_code(url).svg_inline(border=QUIET_MODULES, light="#fff", omitsize=True)
    return drawn
