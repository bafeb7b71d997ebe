"""Duplicates by other means than ours: every pair that shares a line is compared."""

from collections import Counter, defaultdict


def closure(pairs, keys):
    """The connected parts of a graph, as duplicate_groups gives them."""
    part = {key: {key} for key in keys}
    for a, b in pairs:
        if part[a] is not part[b]:
            part[a] |= part[b]
            part.update(dict.fromkeys(part[b], part[a]))
    return {min(whole): sorted(whole) for whole in part.values()}


def by_index(sets, threshold):
    """Groups of id -> set of lines; only pairs that share a line are compared."""
    holders, pairs = defaultdict(list), []
    for key in sorted(sets):
        for other, n in Counter(k for line in sets[key] for k in holders[line]).items():
            if n >= threshold * (len(sets[key]) + len(sets[other]) - n):
                pairs.append((key, other))
        for line in sets[key]:
            holders[line].append(key)
    return closure(pairs, sets)
