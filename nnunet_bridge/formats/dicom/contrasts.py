"""Split the slices of a series by echo and by repetition (FAULTS D05, D06).

Headers are not exact: the echo time of one scan may differ by rounding, or be missing
in some files. The geometry decides: images at one place belong to different sets.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import pairwise

from nnunet_bridge.formats.dicom.headers import SliceHeader

ONE_ECHO = 1.05
"""Echo times may be those of one echo if neighbouring ones have at most this ratio."""

_REPEATS: dict[str, Callable[[SliceHeader], str]] = {
    "acquisition": lambda h: h.contrast.acquisition,
    "temporal position": lambda h: h.contrast.temporal_position,
    "trigger time": lambda h: h.contrast.trigger_time,
}


def split(
    headers: Iterable[SliceHeader], key: Callable[[SliceHeader], Hashable]
) -> list[list[SliceHeader]]:
    """Return the slices of each key, sorted by key."""
    parts: dict[Hashable, list[SliceHeader]] = defaultdict(list)
    for header in headers:
        parts[key(header)].append(header)
    return [parts[chosen] for chosen in sorted(parts)]  # type: ignore[type-var]


def place_of(header: SliceHeader) -> tuple[float, ...]:
    """Return position and cosines of a slice, rounded to 0.01 mm and to 0.1."""
    # Adding 0.0 turns -0.0 into 0.0, so that both are one key.
    position = tuple(round(x, 2) + 0.0 for x in header.plane.position_mm or ())
    turned = tuple(round(x, 1) + 0.0 for x in header.plane.orientation or ())
    return position + turned


def places_of(headers: Iterable[SliceHeader]) -> frozenset[tuple[float, ...]]:
    """Return the places of some slices."""
    return frozenset(map(place_of, headers))


def find_shared_positions(headers: Iterable[SliceHeader]) -> list[list[SliceHeader]]:
    """Return the lists of slices that share one place, in the order of the places."""
    placed = (header for header in headers if header.plane.position_mm is not None)
    return [part for part in split(placed, place_of) if len(part) > 1]


def split_echoes(headers: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Split slices of one series and image type by echo.

    A slice without an echo time belongs to the only echo that lacks its place.
    """
    chains: list[list[SliceHeader]] = []
    for header in sorted(headers, key=_echo_time):
        last = _echo_time(chains[-1][-1]) if chains else 0.0
        if last and _echo_time(header) <= ONE_ECHO * last:
            chains[-1].append(header)
        elif _echo_time(header):
            chains.append([header])
    echoes = [echo for chain in chains for echo in _echoes_of(chain)]
    places = [set(places_of(echo)) for echo in echoes]
    unknown = []
    for header in headers:
        if not _echo_time(header):
            lacking = [n for n, own in enumerate(places) if place_of(header) not in own]
            if len(lacking) == 1:
                echoes[lacking[0]].append(header)
                places[lacking[0]].add(place_of(header))
            else:
                unknown.append(header)
    return split(unknown, lambda h: h.contrast.echo) + echoes


def _echo_time(header: SliceHeader) -> float:
    """Return the echo time in ms; 0 if it is unknown."""
    return header.contrast.echo_time_ms or 0.0


def _echoes_of(chain: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Split slices with similar echo times, if they are several echoes."""
    if not find_shared_positions(chain):
        return [chain]
    for key in (lambda h: h.contrast.echo, _echo_time):
        parts = split(chain, key)
        places = sorted(map(places_of, parts), key=len)
        whole = all(own <= places[-1] for own in places)
        if len(parts) > 1 and whole and not any(map(find_shared_positions, parts)):
            return parts
    return [chain]


def repetitions(headers: list[SliceHeader]) -> list[tuple[str, list[SliceHeader]]]:
    """Split images at the same places by what repeats them, which is named (D06)."""
    if not find_shared_positions(headers):
        return [("", headers)]
    for name, value in _REPEATS.items():
        parts = split(headers, value)
        if len(parts) > 1 and not any(map(find_shared_positions, parts)):
            return [(f"{name} {value(part[0])}", part) for part in parts]
    sets = _numbered_sets(headers)
    return [(f"set {n}", own) for n, own in enumerate(sets, start=1)] or [("", headers)]


def _numbered_sets(headers: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Split by instance number where each place holds equally many images.

    Returns nothing unless the sets are numbered one after the other, or place by place.
    """
    order = sorted(headers, key=lambda h: (h.instance_number or 0, h.frame))
    numbers = {(header.instance_number, header.frame) for header in headers}
    rank = {id(header): n for n, header in enumerate(order)}
    places = split(order, place_of)
    count = len(places[0])
    unclear = len(numbers) < len(headers) or {len(own) for own in places} != {count}
    if unclear or len(places) == 1:
        return []
    sets = [list(own) for own in zip(*places, strict=True)]
    ranks = [[rank[id(header)] for header in own] for own in sets]
    one_by_one = all(max(a) < min(b) for a, b in pairwise(ranks))
    by_place = all(own[-1] - own[0] == count - 1 for own in zip(*ranks, strict=True))
    return sets if one_by_one or by_place else []
