"""Make an image set from a folder of class folders of image files: python data/from_images.py
FOLDER --output data/NAME.h5
"""

import sys

from distcnn.datasets.commands import images_command

if __name__ == "__main__":
    sys.exit(images_command(sys.argv[1:]))
