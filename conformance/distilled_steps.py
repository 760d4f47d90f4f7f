"""An earlier place of `sftspec.conformance.distil`, for adapters that import it from here."""

from sftspec.conformance.trial.distiller import distil as distil
