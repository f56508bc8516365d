"""`python -m fer_nb` is `fer-nb`; written by hand, as no notebook can make a second module"""

from .cli import main

main()
