"""What a visitor of the page can act on."""


class InputError(Exception):
    """A picture or words that cannot be used; one line that says what to do."""
