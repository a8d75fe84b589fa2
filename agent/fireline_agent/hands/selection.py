"""Files below a root chosen by age and name, as few batches that bind every single one of them by a digest.

What a plan says of a million files must be small, and yet the same file under the same name must be meant later: a
batch is a folder with all below it, or a part of what it holds, with the sum of the hashes of its files' identities.
The batches of two looks at an unchanged tree are equal. Leaves to others: what happens to the files.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from fireline_agent.hands import children, shares, tree
from fireline_agent.hands.choosing import Chooser, Share, identity
from fireline_agent.hands.chosen import NO_AGE, PARTS, Batch, Look, Lot, Picked, Rules, Selected
from fireline_agent.hands.holders import Holder
from fireline_agent.hands.tree import Folder

_HOUR_S: Final = 3600


def before_ns(older_than_s: int, now_s: float) -> int:
    """The moment before which files are old enough.

    Counted from the last full hour at most, so that a plan stays the same while somebody reads it: files come of age
    by the second.
    """
    if older_than_s == 0:
        return NO_AGE
    step = min(_HOUR_S, older_than_s // 24) or 1
    return (int(now_s) // step * step - older_than_s) * 1_000_000_000


def select(root: Folder, rules: Rules, look: Look) -> Selected:
    """Everything that is chosen below a root, as batches.

    Raises:
        OSError: a part of the tree could not be looked through.
    """
    spread = shares.spread(root, look.mounts)
    found = {}
    for path, answer in shares.each(root, spread, lambda folder: _share(root, folder, rules, look)):
        if isinstance(answer, children.ChildFailed):
            raise OSError(f"{path}: {answer}")
        found[path] = _from_document(json.loads(answer))
    chooser = Chooser(rules, look, _whole(root), None, shares=found)
    tree.walk(root, chooser, look.mounts)
    selected = chooser.ended()
    selected.batches.sort(key=lambda batch: (batch.path, batch.first), reverse=True)
    return selected


def pick(folder: Folder, batch: Batch, rules: Rules, look: Look) -> tuple[Lot, list[Picked]]:
    """The files of a batch one by one as they are now, each folder after what is in it; `folder` is the batch's."""
    picked: list[Picked] = []
    chooser = Chooser(rules, look, batch, picked)
    tree.walk(folder, chooser, look.mounts)
    total = Lot()
    for found in chooser.selected.batches:
        if found.path == folder.path:
            total.add(found.lot)
    return total, picked


def _share(root: Folder, folder: Folder, rules: Rules, look: Look) -> bytes:
    depth = folder.path.count("/") - root.path.rstrip("/").count("/")
    chooser = Chooser(rules, look, _whole(root), None, above=depth)
    tree.walk(folder, chooser, look.mounts)
    share = chooser.share()
    return json.dumps(share, default=vars).encode()


def _from_document(document: Mapping[str, Any]) -> Share:
    selected = document["selected"]
    batches = [
        Batch(b["path"], _pair(b["identity"]), b["first"], b["last"], Lot(**b["lot"])) for b in selected["batches"]
    ]
    chosen = [Picked(**{**one, "identity": _pair(one["identity"])}) for one in selected["largest"]]
    held_by = Holder(**document["held_by"]) if document["held_by"] else None
    return Share(Selected(**{**selected, "batches": batches, "largest": chosen}), Lot(**document["lot"]), held_by)


def _pair(identity: list[int]) -> tuple[int, int]:
    return identity[0], identity[1]


def _whole(root: Folder) -> Batch:
    return Batch(root.path, identity(root.found), 0, PARTS - 1, Lot())
