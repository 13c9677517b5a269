"""Why does a BERT compute what it computes?

`record` and `edit` show and change every value; here are the questions that people ask of these values, each in one
call, and each result carries its own proof: `.error` says how far the parts are from the whole.

`targets` says which number is to be explained, `runs` how a model is run for that.
"""
