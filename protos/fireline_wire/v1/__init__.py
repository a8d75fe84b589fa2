"""Generated messages and stubs; the comments in the .proto files are the API documentation."""
