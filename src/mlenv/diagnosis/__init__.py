"""What ``mlenv doctor`` looks at, a module an area; ``commands/doctor.py`` puts the report together."""
