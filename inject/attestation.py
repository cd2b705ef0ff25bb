"""The audit of a stage: are the rows that the trainer consumed those of its mixture, token for token and label for label?

As in inject/audit.py, every row is made anew, and where its digest is the one in the ledger the two are equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.progress import progress
from inject.audit import read_ledger
from inject.certificate import TOLD, Certificate, Violation
from inject.mixture import Mixture
from inject.stream import row_digests


def attest(
    stream: Mixture, ledger: Sequence[Path], *, model: str, steps: int, of_steps: int, fingerprints: Mapping[str, Any]
) -> Certificate:
    """Compare steps [0, steps) of a stage's ledger with its stream; `of_steps` are those that it could have taken at most.

    A planned occurrence of the certificate is a row that holds a fact or an item. DataError where a segment can't be read.
    """
    batch, length = stream.batch, stream.sequence_length
    holding = Counter(row // batch for row, _, _ in stream.items(0, steps * batch))  # rows with a fact or an item, by step
    certificate = Certificate(model, steps, of_steps, dict(fingerprints), planned=holding.total())
    following = 0
    with progress(f"audit {model}", "rows", steps * batch) as meter:
        for record in read_ledger(ledger):
            if record.step >= steps:
                continue
            if record.step != following:
                what = f"the ledger has step {record.step:,} where step {following:,} belongs"
                certificate.violate(Violation("ledger", what, record.step))
                if record.step < following:
                    continue
            following = record.step + 1
            first = record.step * batch
            rows = stream.rows(np.arange(first, first + batch))
            expected = row_digests(rows.tokens, rows.label_mask)
            deviating = [slot for slot, (own, found) in enumerate(zip(expected, record.digests, strict=False)) if own != found]
            if len(record.digests) != batch:
                certificate.violate(Violation("rows", f"the step has {len(record.digests)} rows, not {batch}", record.step))
            for slot in deviating:
                what = "the row is not the one that the stage's mixture has there"
                certificate.violate(Violation("differs", what, record.step, slot, first + slot))
            if deviating or len(record.digests) != batch:
                certificate.unproven += holding[record.step]
            elif record.consumed:
                certificate.rows += batch
                certificate.consumed += holding[record.step]
                certificate.consumed_tokens += batch * (length + 1)
                certificate.labels_left_out += int(rows.label_mask.size - rows.label_mask.sum())
            else:
                certificate.rows += batch
                certificate.skipped += holding[record.step]
                certificate.skipped_steps.add({"step": record.step})
            meter.advance(batch)
    if following < steps:
        certificate.violate(Violation("ledger", f"steps {following:,} to {steps - 1:,} are not in the ledger", following))
    return certificate


def summary(certificate: Certificate) -> list[str]:
    """The certificate in a few lines."""
    c = certificate
    verdict = "certified" if c.certified else "VIOLATED"
    return [
        f"{c.model}: {verdict}, its {c.steps:,} steps of at most {c.of_steps:,}",
        f"  rows: {c.rows:,} are what the stage's mixture says, {c.consumed:,} of them with a fact or an item in a consumed step",
        f"  labels left out of the loss, as questions, padding and what the loss leaves out: {c.labels_left_out:,}",
        *(f"  {entry['kind']}: {Violation(**entry)}" for entry in c.violations.listed[:TOLD]),
    ]
