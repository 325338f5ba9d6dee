"""Reading image-caption pairs in the forms that users have them."""
