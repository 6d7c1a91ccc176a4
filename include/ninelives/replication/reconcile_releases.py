"""A model at two sites that meet again: its objects merge by union, the pointer that descends from the other wins."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ninelives.errors import Corrupted
from ninelives.replication.manifest import ManifestObject, hash_objects
from ninelives.replication.pointers import Move, descends, read_moves, sha256, write_move
from ninelives.replication.questions import Question, Version, question_id
from ninelives.replication.reconcile_objects import Conflict, Meeting, Objects, conflict_key, not_carried_out
from ninelives.replication.replicate import MODELS, Pointer, list_model, pointer_key, read_pointer
from ninelives.replication.transfer import Delivery, deliver, some


class Release:
    """A model's objects, which merge by union, and its release pointer, which one of the two sites moved last."""

    def __init__(self, run: Meeting, model: str, objects: Objects) -> None:
        self.run, self.model = run, model
        self.problems: list[str] = []
        self.questions: list[Question] = []
        self.decided: list[Question] = []
        self.conflicts: list[Conflict] = []
        self.agreed: str | None = None
        self.version: str | None = None
        self.stores = run.stores
        self.listed = [list_model(store, model) for store in self.stores]
        self.sound = []
        for store, listed in zip(self.stores, self.listed, strict=True):
            hashed = hash_objects(store, MODELS, {o.key: o.size for o in listed.values()})
            self.sound.append({key: o for key, o in listed.items() if hashed[key] == o})
        self.missing_at_a = [o for key, o in self.sound[1].items() if key not in self.sound[0]]
        self.missing_at_b = [o for key, o in self.sound[0].items() if key not in self.sound[1]]
        self.moves: dict[str, Move] = {}
        self.pointers: list[tuple[Pointer, bytes] | None] = []
        self.damaged: list[str] = []
        self._read()
        self._decide(objects)
        if self.wanted[0] is not None and self.wanted[0] == self.wanted[1]:
            self.version = Pointer.model_validate_json(self.wanted[0]).version

    def _read(self) -> None:
        for store in self.stores:
            try:
                self.pointers.append(read_pointer(store, self.model))
            except Corrupted as error:
                self.pointers.append(None)
                self.damaged.append(str(error))
            try:
                self.moves |= read_moves(store, self.model)
            except Corrupted as error:
                self.problems.append(str(error))

    def _decide(self, objects: Objects) -> None:
        """The document that each site shall have."""
        self.wanted: list[bytes | None] = [None, None]
        ours, theirs = self.pointers
        if ours is None or theirs is None:
            found = ours or theirs
            self.wanted = [found[1] if found else None] * 2
            if found is None:
                self.problems.extend(self.damaged)
            return
        base = objects.agreed.releases.get(self.model) if objects.agreed else None
        if not all(objects.is_current(site) for site in (objects.a, objects.b)):
            base = None
        winner = self._later(ours, theirs, base)
        if winner is not None:
            self.wanted = [winner, winner]
            self._decide_again(objects)
            return
        question = self._ask(objects)
        choice = question.decision.choice if question.decision else self.run.keeper
        names = [store.site for store in self.stores]
        self.wanted = [ours[1], theirs[1]] if choice is None else [(ours, theirs)[names.index(choice)][1]] * 2
        if question.decision:
            self.decided.append(question)
            return
        self.questions.append(question)
        if choice is not None:
            kept, moved = sorted(question.versions, key=lambda v: v.site != choice)
            key = pointer_key(self.model)
            self.conflicts.append(Conflict(key, choice, kept.sha256, moved.site, moved.sha256, moved.aside))

    def _later(self, ours: tuple[Pointer, bytes], theirs: tuple[Pointer, bytes], base: str | None) -> bytes | None:
        """The document that descends from the other; ``None`` where neither does."""
        a, b = sha256(ours[1]), sha256(theirs[1])
        if a == b or b == base or descends(a, b, self.moves):
            return ours[1]
        if a == base or descends(b, a, self.moves):
            return theirs[1]
        if a in self.moves and b in self.moves:
            return None
        # From before moves were recorded: one registry numbers all versions, so the higher is the later.
        if ours[0].number != theirs[0].number:
            return ours[1] if ours[0].number > theirs[0].number else theirs[1]
        if ours[0].digest == theirs[0].digest:  # they differ in what no user feels
            return max(ours[1], theirs[1])
        return None

    def _ask(self, objects: Objects) -> Question:
        versions = []
        for store, pointer in zip(self.stores, self.pointers, strict=True):
            assert pointer is not None  # noqa: S101 - there is no conflict with nothing
            digest = sha256(pointer[1])
            key = conflict_key(store.site, pointer_key(self.model), digest)
            written = _described(pointer[1], self.moves.get(digest))
            versions.append(Version(site=store.site, sha256=digest, size=len(pointer[1]), aside=key, written=written))
        name = question_id("release", self.run.dataset, self.model, *sorted(v.sha256 for v in versions))
        stored = objects.stored.get(name)
        question = Question(
            id=name,
            kind="release",
            dataset=self.run.dataset,
            bucket=MODELS,
            subject=self.model,
            options=tuple(v.site for v in versions),
            versions=tuple(versions),
            settled=self.run.keeper,
            decision=not_carried_out(stored),
        )
        return self.run.answered(question)

    def _decide_again(self, objects: Objects) -> None:
        for stored in objects.stored.values():
            now = self.wanted[0]
            settled = stored.settled is not None and now is not None and stored.kind == "release"
            if (
                not settled
                or stored.subject != self.model
                or sha256(now or b"") not in {v.sha256 for v in stored.versions}
            ):
                continue
            question = self.run.answered(stored)
            if question.decision is None:
                self.questions.append(question)
            elif question.decision.choice != question.settled or question.id in self.run.decisions:
                chosen = next(v for v in question.versions if v.site == question.decision.choice)
                data = next((d for s in self.stores if (d := s.get(MODELS, chosen.aside))), None)
                if data is None or sha256(data) != chosen.sha256:
                    self.problems.append(f"{MODELS}/{chosen.aside} is damaged: publish the release again")
                    continue
                self.wanted = [data, data]
                self.decided.append(question)

    def apply(self) -> tuple[Delivery, Delivery, list[str]]:
        """Objects first, then the moves, the pointer last."""
        link = self.run.link
        to_b = deliver(link, MODELS, self.missing_at_b, _sizes(self.listed[1]), self.run.on_progress)
        to_a = deliver(link.reversed(), MODELS, self.missing_at_a, _sizes(self.listed[0]), self.run.on_progress)
        self.problems.extend(done.problem for done in (to_b, to_a) if done.problem)
        union = {*self.sound[0], *self.sound[1]} - {*to_b.failed, *to_a.failed}
        bad = ({*self.listed[0]} - {*self.sound[0]}) | ({*self.listed[1]} - {*self.sound[1]})
        if bad - union:
            self.problems.append(f"no site has a good copy of {some(sorted(bad - union))}: publish the release again")
        for store in self.stores:
            known = read_moves(store, self.model) if not self.problems else self.moves
            for document, move in self.moves.items():
                if document not in known:
                    write_move(store, move)
        healed = sorted(bad & union)
        if self._move(union) and self.damaged:
            healed.append(pointer_key(self.model))
        return to_a, to_b, healed

    def _move(self, objects: set[str]) -> bool:
        key = pointer_key(self.model)
        for question in [*self.questions, *self.decided]:
            for version in question.versions:
                data = next((p[1] for p in self.pointers if p and sha256(p[1]) == version.sha256), None)
                keeps = version.site == question.settled and question.decision is None
                for store in self.stores:
                    if data and not keeps and store.get(MODELS, version.aside) != data:
                        store.put(MODELS, version.aside, data)
            self.run.write_question(question)
        for store, wanted, has in zip(self.stores, self.wanted, self.pointers, strict=True):
            if wanted is None:
                continue
            pointer = Pointer.model_validate_json(wanted)
            if pointer.object not in objects:
                self.problems.append(
                    f"release {pointer.version} of {self.model} names {pointer.object}, which no site has"
                )
                return False
            if has is None or has[1] != wanted:
                store.put(MODELS, key, wanted)
        if self.wanted[0] is not None and self.wanted[0] == self.wanted[1]:
            self.agreed = sha256(self.wanted[0])
        return True


def _described(document: bytes, move: Move | None) -> str:
    """Who wrote a release pointer, for people."""
    content = json.loads(document)
    parts = [f"release {content['version']}, object {content['digest']}"]
    if content.get("data_version"):
        parts.append(f"trained on data {content['data_version']}")
    if move:
        by = f" by {move.by}" if move.by else ""
        parts.append(f"published{by} at {move.site}, {move.at:%Y-%m-%d %H:%M:%S} UTC, move {move.epoch}")
    elif content.get("created_at"):
        parts.append(f"made {content['created_at']}")
    return ", ".join(parts)


def _sizes(objects: Mapping[str, ManifestObject]) -> dict[str, int]:
    return {o.key: o.size for o in objects.values()}
