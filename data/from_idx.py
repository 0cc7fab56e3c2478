"""Make an image set from four IDX files: python data/from_idx.py FOLDER --output data/NAME.h5"""

import sys

from distcnn.datasets.commands import idx_command

if __name__ == "__main__":
    sys.exit(idx_command(sys.argv[1:]))
