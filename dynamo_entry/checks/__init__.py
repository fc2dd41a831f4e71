"""Whether an engine can be frozen, and whether this container can run an archive. One module for each property.

``dump`` has what a creation checks before the freeze, ``restore`` what a restore checks before it touches anything; both
read from top to bottom. Facts are recorded at creation (``facts``) and compared at a restore. Every refusal is a
NotDumpable or an Incompatible that names the property, both values, and a remedy.
"""
