"""Which loader of a config a stock tool reads, so that a config without it is refused."""

import pytest

from poslabel_mm.errors import UserError
from poslabel_mm.launch.tool_errors import check_loader

MATRIX = 'analysis_tools/confusion_matrix.py'
BROWSE = 'visualization/browse_dataset.py'
TSNE = 'visualization/vis_tsne.py'
FOLDS = 'kfold-cross-valid.py'
OPTION = '--cfg-options', 'test_dataloader.dataset.type=CustomDataset', 'model.x=1'


@pytest.mark.parametrize(
    'loaders, tool, words, missing',
    [
        ('train', MATRIX, ['epoch_1.pth'], 'test'),
        ('train', MATRIX, ['results.pkl'], None),
        ('train', MATRIX, ['epoch_1.pth', *OPTION], None),
        ('train test', MATRIX, ['epoch_1.pth', '--cfg-options', 'test_dataloader=None'], 'test'),
        ('train', BROWSE, [], None),
        ('test', BROWSE, [], 'train'),
        ('test', BROWSE, ['-p', 'test'], None),
        ('test', BROWSE, ['--phase=val'], 'val'),
        ('train', TSNE, [], 'test'),
        ('train', TSNE, ['--test-cfg', 'other'], None),
        ('train', FOLDS, [], 'val'),
        ('train', FOLDS, ['--no-validate'], None),
    ],
)
def test_the_loader_that_a_tool_reads(loaders, tool, words, missing, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        'model = dict()\n'
        + ''.join(f'{name}_dataloader = dict(dataset=dict())\n' for name in loaders.split())
    )
    if missing is None:
        check_loader(tool, [str(config), *words])
        return
    with pytest.raises(UserError, match=f'config.py has no {missing}_dataloader, whose images'):
        check_loader(tool, [str(config), *words])
