"""What happens first at one instant (``docs/model.md``, "Ties")."""

from __future__ import annotations

# A branch that restarts, then finished drafts, then finished passes; passes among themselves in the
# order in which they were dispatched; then whatever waits for the verdicts of that instant.
RESTART, DRAFT, PASS, AFTER_PASSES = range(4)
