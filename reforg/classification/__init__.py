"""Many pictures to answers on disk: what was asked (`request`), rows written so that a run can go on where it ended (`journal`).

May import models and what stands below them; the answers themselves are `reforg.models.answers`. Start with `writing`.
"""
