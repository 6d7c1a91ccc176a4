"""In a process of its own: load a restored model and ask it what it was asked when it was made.

``python -m ninelives.backups.answer RELEASE.json FOLDER-OF-OBJECTS``; exit code 0 where every answer is the known one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ninelives.errors import NinelivesError
from ninelives.releases.golden import answers_match
from ninelives.releases.publish import Release, digest_of
from ninelives.serving.model import OnnxModel


def main() -> None:
    """Print what is wrong, if anything is."""
    release = Release.model_validate_json(Path(sys.argv[1]).read_bytes())
    onnx = (Path(sys.argv[2]) / release.object).read_bytes()
    if digest_of(onnx) != release.digest:
        sys.exit(f"its weights are not those of version {release.version}")
    try:
        model = OnnxModel(release.model, release.version, release.digest, onnx)
    except NinelivesError as error:
        sys.exit(str(error))
    for number, golden in enumerate(release.golden):
        if not answers_match(golden.outputs, model.answer([golden.inputs]), release.tolerance):
            sys.exit(f"version {release.version} answers golden request {number} otherwise than when it was made")


if __name__ == "__main__":
    main()
