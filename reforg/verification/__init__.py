"""Is this port right, and if not, which operation is wrong, and why?"""

from reforg.verification.report import Difference, ErrorMap, Report, Selection
from reforg.verification.verifier import verify

__all__ = ["Difference", "ErrorMap", "Report", "Selection", "verify"]
