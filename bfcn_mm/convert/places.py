"""The calls of each activation in the probe's forwards, and the quantizers that they get."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..layers import Places
from ..layers.call_site import Site
from .origins import Call, Place


@dataclass
class Run:
    """One forward of a module: which activations it called, from where, in order.

    caller: its name; None where no module's forward was running. training: the mode of each activation.
    """

    caller: str | None
    sites: dict[str, list[Site]] = field(default_factory=dict)
    training: dict[str, bool] = field(default_factory=dict)

    def add(self, activation: str, site: Site, training: bool) -> Call:
        """Note a call; returns what names it."""
        sites = self.sites.setdefault(activation, [])
        self.training[activation] = training
        sites.append(site)
        return activation, site, sites.count(site) - 1


def settle(activation: str, runs: list[Run]) -> tuple[Places, str]:
    """The places of one activation, and why it must stay in float, or ''.

    Each line that calls it is a place, in the order of the runs. A line that calls it several times in
    every run has that many; one that does so in some runs only has one for all calls.
    """
    runs = [run for run in runs if activation in run.sites]
    counts: dict[Site, set[int]] = {}
    callers: dict[Site, set[str]] = {}
    for run in runs:
        for site in run.sites[activation]:
            counts.setdefault(site, set()).add(run.sites[activation].count(site))
            callers.setdefault(site, set()).add(run.caller or '')
    several = {site: max(c) for site, c in counts.items() if len(c) == 1 and max(c) > 1}
    reason = _refusal(runs, callers, several)
    if reason:
        return Places(0), reason
    sites: dict[Site, tuple[int, ...]] = {}
    count = 0
    for run in runs:
        for site in run.sites[activation]:
            known = sites.get(site, ())
            if len(known) < several.get(site, 1):
                sites[site] = (*known, count)
                count += 1
    names = set().union(*callers.values())
    caller = names.pop() if len(names) == 1 else None
    return Places(count, sites, _orders(activation, runs, sites), caller), ''


def is_shared(activation: str, runs: list[Run]) -> bool:
    """Whether one line calls it in forwards of several modules."""
    callers: dict[Site, set[str]] = {}
    for run in runs:
        for site in run.sites.get(activation, ()):
            callers.setdefault(site, set()).add(run.caller or '')
    return any(len(names) > 1 for names in callers.values())


def calls_vary(activation: str, runs: list[Run]) -> bool:
    """Whether one line calls it more often in some forwards than in others: all calls share a grid."""
    counts: dict[Site, set[int]] = {}
    for run in runs:
        for site in run.sites.get(activation, ()):
            counts.setdefault(site, set()).add(run.sites[activation].count(site))
    return any(len(found) > 1 for found in counts.values())


def _refusal(runs: list[Run], callers: dict[Site, set[str]], several: dict[Site, int]) -> str:
    if not runs:
        return 'no forward reaches it'
    for names in callers.values():
        if len(names) > 1:
            some = ' and '.join(name or 'the model' for name in sorted(names)[:2])
            return f'called by {some}: one module at both cannot tell their maps apart'
    if several and len(set().union(*callers.values())) > 1:
        return 'called several times from one line, and by other modules as well'
    if several and any(run.caller is None for run in runs):
        return 'called several times from one line, while no forward is running'
    return ''


def place_of(call: Call, places: Places) -> Place:
    activation, site, number = call
    indices = places.sites[site]
    return activation, indices[min(number, len(indices) - 1)]


def _orders(
    activation: str, runs: list[Run], sites: dict[Site, tuple[int, ...]]
) -> dict[bool, tuple[int, ...]]:
    """Mode -> indices in order, where all its runs agree; a mode without runs has the other's."""
    seen: dict[bool, set[tuple[int, ...]]] = {}
    for run in runs:
        calls: list[Site] = []
        order = []
        for site in run.sites[activation]:
            indices = sites[site]
            order.append(indices[min(calls.count(site), len(indices) - 1)])
            calls.append(site)
        seen.setdefault(run.training[activation], set()).add(tuple(order))
    orders = {mode: next(iter(found)) for mode, found in seen.items() if len(found) == 1}
    for mode in (False, True):
        if mode not in seen and (not mode) in orders:
            orders[mode] = orders[not mode]
    return orders
