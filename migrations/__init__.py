"""The database's versions, oldest first: numbered, run by `botfleet migrate` on both databases.

A new version is a file `versions/0002_what_it_does.py` whose `revision` is its number. It
expands what is there, so that the previous code goes on running beside it; what it replaces is
dropped a release later. `shared.store.schema` counts the numbers.
"""
