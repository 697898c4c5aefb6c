"""Judges of a rollout: does the reasoning entail the answer, and is each of its sentences true of the images?"""
