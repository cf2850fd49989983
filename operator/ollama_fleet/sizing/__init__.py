"""From the header of a GGUF file to the GPU memory that the model needs, closed by measurements. Pure."""
