"""Duplicates by other means than ours: every pair that shares a line is compared."""

from collections import Counter, defaultdict

from backend.data.duplicates import normal_lines, of_phrases, phrases


def closure(pairs, keys):
    """The connected parts of a graph, as duplicate_groups gives them."""
    part = {key: {key} for key in keys}
    for a, b in pairs:
        if part[a] is not part[b]:
            part[a] |= part[b]
            part.update(dict.fromkeys(part[b], part[a]))
    return {min(whole): sorted(whole) for whole in part.values()}


def groups(texts, threshold):
    """What duplicate_groups should find: versions by lines, or by phrases."""
    views = [(normal_lines, threshold), (phrases, of_phrases(threshold))]
    pairs = [
        pair
        for view, least in views
        for pair in near({key: view(text) for key, text in texts.items()}, least)
    ]
    return closure(pairs, texts)


def near(sets, threshold):
    """Pairs of id -> set that overlap so much; only pairs that share a member are compared."""
    holders, pairs = defaultdict(list), []
    for key in sorted(sets):
        for other, n in Counter(k for line in sets[key] for k in holders[line]).items():
            if n >= threshold * (len(sets[key]) + len(sets[other]) - n):
                pairs.append((key, other))
        for line in sets[key]:
            holders[line].append(key)
    return pairs
