"""Tables -> people: in the terminal, in figures and on a page."""
