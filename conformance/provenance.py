"""An earlier place of `sftspec.conformance.witness.provenance`, for scripts that import it from here."""

from sftspec.conformance.witness.provenance import Origin as Origin
from sftspec.conformance.witness.provenance import Provenance as Provenance
