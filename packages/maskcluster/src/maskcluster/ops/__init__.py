"""Operations with kernels of their own: a contract, a reference, a CPU and a GPU kernel each."""
