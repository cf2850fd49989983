"""GGUF files with true shapes and no data: sparse files of many gigabytes that take some kilobytes of disk.

Dimensions are those of published models; the tables of tensors are what llama.cpp asks of each architecture
(``src/models/*.cpp``).
"""
