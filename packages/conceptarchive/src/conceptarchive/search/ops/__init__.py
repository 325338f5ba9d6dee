"""Operations with a kernel of their own."""
