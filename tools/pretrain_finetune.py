"""From self-supervised pre-training to the accuracy after fine-tuning.

    python tools/pretrain_finetune.py PRETRAINING FINETUNING [--gpus N]
        [--work-dir DIR] [--pretraining KEY=VALUE ...] [--finetuning KEY=VALUE ...]

PRETRAINING and FINETUNING are paths or names of shipped configs. The encoder
that the first has trained is handed to the second, whose last checkpoint is
tested. Repeat the command to resume.
"""

import sys
from pathlib import Path

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from poslabel_mm.cli import main  # noqa: E402

if __name__ == '__main__':
    sys.exit(main(['pretrain-finetune', *sys.argv[1:]]))
