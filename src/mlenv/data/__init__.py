"""What is shipped beside the code: the catalogue, and the scripts that another Python runs."""
