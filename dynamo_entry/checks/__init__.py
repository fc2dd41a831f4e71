"""May this engine be frozen, may this container run that archive? One module a property.

``dump`` is what a creation checks before the freeze, ``restore`` what a restore checks before anything is
touched; both read top to bottom. Facts are recorded at creation (``facts``) and compared here. Every refusal is
a NotDumpable or an Incompatible that names the property, both values, and a remedy.
"""
