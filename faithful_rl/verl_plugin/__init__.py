"""The one place where verl, Ray and vLLM are met. Importing this package imports none of them."""
