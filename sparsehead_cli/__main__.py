"""python -m sparsehead_cli"""

from sparsehead_cli.cli import main

main()
