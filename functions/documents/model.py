"""The base of every document: frozen in Python, camelCase in Firestore."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Document(BaseModel):
    """A value that is kept in Firestore. Fields that this version does not know are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    def to_firestore(self) -> dict[str, Any]:
        """The fields as Firestore keeps them; absent values are left out."""
        return self.model_dump(by_alias=True, exclude_none=True)

    @classmethod
    def from_firestore(cls, fields: dict[str, Any]) -> Self:
        """The document of these fields.

        Raises:
            pydantic.ValidationError: somebody else has written something that is not such a document.
        """
        return cls.model_validate(fields)
