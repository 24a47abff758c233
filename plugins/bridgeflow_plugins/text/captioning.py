"""The metrics of captioning: BLEU, METEOR, ROUGE-L and CIDEr, by pycocoevalcap.

The published figures of captioning use the PTB tokenizer, which needs Java, and so does METEOR. Without Java texts are
cut into lower-case words; the figures are then named `..._plain`, since they are not comparable with published ones.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.text.meteor import Meteor

SECONDS = 600
"""How long the tokenizer may take."""
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""Tokens that captioning leaves out, in the spelling of the Penn treebank."""
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")


class CaptionScorer:
    """Captions with their references, cut into words once and scored for any choice of examples.

    results: a caption each. references: one or several captions each. `notes` says what is left out and why. Raises
    BridgeflowError where pycocoevalcap is not installed.
    """

    def __init__(self, results: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        try:
            import pycocoevalcap
        except ImportError as error:
            raise BridgeflowError("captions are scored by pycocoevalcap: pip install pycocoevalcap.") from error
        self.notes: list[str] = []
        self._folder = Path(next(iter(pycocoevalcap.__path__)))
        self._java = shutil.which("java")
        lines = [text for own in references for text in own]
        cut = self._cut([*results, *lines])
        self.results = cut[: len(results)]
        rest = iter(cut[len(results) :])
        self.references = [[next(rest) for _ in own] for own in references]

    def figures(self, rows: Sequence[int]) -> dict[str, float]:
        """BLEU-1 to 4, ROUGE-L and CIDEr of the examples of some numbers; each in [0, 1] but CIDEr, which is at most 10
        and weighs words by how rare they are among the references of these examples."""
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        own = {number: [self.results[i]] for number, i in enumerate(rows)}
        truths = {number: self.references[i] for number, i in enumerate(rows)}
        end = "" if self.standard else "_plain"
        with contextlib.redirect_stdout(io.StringIO()):
            bleu, _ = Bleu(4).compute_score(truths, own, verbose=0)
        found = {f"bleu{n}{end}": float(value) for n, value in enumerate(bleu, 1)}
        found[f"rouge_l{end}"] = float(Rouge().compute_score(truths, own)[0])
        found[f"cider{end}"] = float(Cider().compute_score(truths, own)[0])
        return found

    def once(self) -> dict[str, float]:
        """METEOR of all examples, in [0, 1]; nothing without Java."""
        if not self.standard:
            return {}
        assert self._java is not None
        try:
            return {"meteor": Meteor.asked(self._java, self._folder / "meteor", self.results, self.references)}
        except (OSError, subprocess.SubprocessError) as error:
            self._note_failure(error)
        except ValueError:
            self.notes.append("METEOR gave no number, so it is left out.")
        return {}

    # -- words -----------------------------------------------------------------------------------------------

    def _cut(self, texts: Sequence[str]) -> list[str]:
        """Words of each text, joined by spaces."""
        lines = [" ".join(text.split()) for text in texts]
        self.standard = False
        if self._java is None:
            self.notes.append(
                "Java is not installed, so captions are cut into plain words (the figures end in _plain) and METEOR is "
                "left out."
            )
        else:
            jar = next((self._folder / "tokenizer").glob("stanford-corenlp-*.jar"))
            told = self._run(
                ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"], lines
            )
            if told is not None and len(told) == len(lines):
                self.standard = True
                return [" ".join(word for word in line.split() if word not in PUNCTUATION) for line in told]
        return [" ".join(WORD.findall(line.lower())) for line in lines]

    def _run(self, arguments: list[str], lines: Sequence[str]) -> list[str] | None:
        """What a Java program makes of lines; None, with a note, where it fails or takes too long."""
        assert self._java is not None
        try:
            done = subprocess.run(
                [self._java, "-Xmx2G", *arguments],
                input="".join(f"{line}\n" for line in lines).encode(),
                capture_output=True,
                timeout=SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._note_failure(error)
            return None
        return done.stdout.decode("utf-8", "replace").split("\n")[:-1]

    def _note_failure(self, error: Exception) -> None:
        self.notes.append(f"Java failed ({type(error).__name__}), so what needs it is left out.")
