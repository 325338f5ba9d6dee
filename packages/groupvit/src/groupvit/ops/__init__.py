"""Operations with kernels of their own: a contract, a reference and a Triton kernel each."""
