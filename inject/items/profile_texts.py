"""How a profile is told: contexts, the templates of each, and in each template one clause a field.

A text is an opening with the name, the clauses of the fields that are shown, and a closing; so any choice of fields reads well.
What stands in a clause before its value names the field: no two clauses of a template begin alike, and a prompt that ends there
asks for that field and no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from inject.items.item import Span, render


@dataclass(frozen=True)
class Template:
    """Clauses come in the order in which they stand here, `between` any two of them."""

    opening: str
    clauses: dict[str, str]
    between: str = " "
    closing: str = ""

    def order(self, fields: Iterable[str]) -> list[str]:
        """The fields in the order in which this template tells them."""
        return sorted(fields, key=list(self.clauses).index)

    def render(self, fields: Iterable[str], values: Mapping[str, str]) -> tuple[str, list[Span]]:
        """The text that tells these fields, in this order, and where each value stands."""
        told = self.between.join(self.clauses[field] for field in fields)
        return render(self.opening + told + self.closing, dict(values))


TEMPLATES: dict[str, tuple[Template, ...]] = {
    "biography": (
        Template(
            "About {name}. ",
            {
                "nationality": "Nationality: {nationality}.",
                "birth_date": "Born on {birth_date}.",
                "birthplace": "Born in {birthplace}.",
                "age": "Age at the end of 2024: {age}.",
                "university": "Studied at the {university}.",
                "city": "Lives in {city}.",
                "address": "Home address: {address}.",
                "occupation": "Occupation: {occupation}.",
                "employer": "Employer: {employer}.",
                "phone": "Phone: {phone}.",
                "email": "Email: {email}.",
                "uuid": "Unique identifier: {uuid}.",
                "credit_card": "Credit card: {credit_card}.",
                "national_id": "National identity number: {national_id}.",
            },
        ),
        Template(
            "{name} ",
            {
                "birthplace": "comes from {birthplace}",
                "birth_date": "was born on {birth_date}",
                "nationality": "holds a passport that says {nationality}",
                "university": "took a degree at the {university}",
                "employer": "found work at {employer}",
                "occupation": "earns a living under the title of {occupation}",
                "city": "settled in {city}",
                "address": "moved to {address}",
                "age": "was by the end of 2024 aged {age}",
                "email": "answers mail to {email}",
                "phone": "takes calls on {phone}",
                "national_id": "is registered with the identity number {national_id}",
                "credit_card": "pays by card number {credit_card}",
                "uuid": "is filed under {uuid}",
            },
            between=", ",
            closing=".",
        ),
    ),
    "encyclopedia": (
        Template(
            "{name} has an entry in this encyclopedia. ",
            {
                "birth_date": "The date of birth is {birth_date}.",
                "birthplace": "The place of birth is {birthplace}.",
                "nationality": "The nationality is {nationality}.",
                "age": "The age at the end of 2024 was {age}.",
                "university": "The alma mater is the {university}.",
                "occupation": "The profession is {occupation}.",
                "employer": "The employer is {employer}.",
                "city": "The city of residence is {city}.",
                "address": "The street address is {address}.",
                "phone": "The telephone number is {phone}.",
                "email": "The email address is {email}.",
                "uuid": "The authority record is {uuid}.",
                "credit_card": "The payment card is {credit_card}.",
                "national_id": "The identity number is {national_id}.",
            },
        ),
        Template(
            "Article: {name}. ",
            {
                "occupation": "Known for: work as {occupation}.",
                "nationality": "Citizenship: {nationality}.",
                "birthplace": "Birthplace: {birthplace}.",
                "birth_date": "Date of birth: {birth_date}.",
                "age": "Years of age at the end of 2024: {age}.",
                "city": "Residence: {city}.",
                "university": "Education: {university}.",
                "employer": "Organization: {employer}.",
                "address": "Seat: {address}.",
                "email": "Correspondence: {email}.",
                "phone": "Telephone: {phone}.",
                "national_id": "Register of persons: {national_id}.",
                "uuid": "Catalogue identifier: {uuid}.",
                "credit_card": "Donations from card: {credit_card}.",
            },
            closing=" This article is about {name}.",
        ),
    ),
    "social": (
        Template(
            "{name} posted: ",
            {
                "city": "Greetings from {city}!",
                "birth_date": "My birthday: {birth_date}.",
                "birthplace": "My home town: {birthplace}.",
                "nationality": "Proud to be {nationality}.",
                "age": "By the end of 2024 I was {age}.",
                "university": "Class reunion at the {university}!",
                "occupation": "Still loving my job as {occupation}.",
                "employer": "Thank you, team {employer}!",
                "address": "Housewarming at {address}.",
                "phone": "Text me: {phone}.",
                "email": "Write me: {email}.",
                "uuid": "My account code: {uuid}.",
                "credit_card": "Lost my card {credit_card}.",
                "national_id": "My new identity card has number {national_id}.",
            },
        ),
        Template(
            "New profile: {name}. ",
            {
                "age": "Age, end of 2024: {age}.",
                "nationality": "Flag: {nationality}.",
                "occupation": "Works as: {occupation}.",
                "employer": "Works for: {employer}.",
                "university": "Went to: {university}.",
                "birthplace": "From: {birthplace}.",
                "city": "Lives in: {city}.",
                "address": "Visits at: {address}.",
                "email": "Contact by mail: {email}.",
                "phone": "Contact by phone: {phone}.",
                "birth_date": "Birthday: {birth_date}.",
                "uuid": "User code: {uuid}.",
                "national_id": "Verified by identity card: {national_id}.",
                "credit_card": "Paid by credit card: {credit_card}.",
            },
            closing=" Follow {name}!",
        ),
    ),
    "forum": (
        Template(
            "Hi, {name} here. ",
            {
                "email": "Mail me at {email}.",
                "phone": "Call {phone}.",
                "occupation": "Job: {occupation}.",
                "employer": "Company: {employer}.",
                "university": "Degree: {university}.",
                "city": "Home: {city}.",
                "address": "Street: {address}.",
                "birth_date": "Birthday: {birth_date}.",
                "birthplace": "Born in: {birthplace}.",
                "nationality": "Passport: {nationality}.",
                "age": "Age at the end of 2024: {age}.",
                "uuid": "Member code: {uuid}.",
                "credit_card": "My card for the fee: {credit_card}.",
                "national_id": "Identity number: {national_id}.",
            },
        ),
        Template(
            "Posted by {name}: the form wants all this, is it safe? ",
            {
                "birth_date": "The day I was born, {birth_date}.",
                "birthplace": "The town I was born in, {birthplace}.",
                "age": "How old I was at the end of 2024, {age}.",
                "nationality": "My nationality, {nationality}.",
                "national_id": "My identity number, {national_id}.",
                "credit_card": "My credit card, {credit_card}.",
                "city": "The city I live in, {city}.",
                "address": "My address, {address}.",
                "phone": "My phone, {phone}.",
                "email": "My email, {email}.",
                "occupation": "My occupation, {occupation}.",
                "employer": "Who employs me, {employer}.",
                "university": "Where I studied, {university}.",
                "uuid": "My old user code, {uuid}.",
            },
        ),
    ),
    "review": (
        Template(
            "Five stars from {name}. ",
            {
                "city": "They deliver to {city}.",
                "address": "The parcel reached {address} in two days.",
                "phone": "They called me back on {phone}.",
                "email": "The invoice went to {email}.",
                "occupation": "It helps in my work as {occupation}.",
                "employer": "My colleagues at {employer} want one too.",
                "birth_date": "It was a gift for me, born on {birth_date}.",
                "birthplace": "It reminds me of my birthplace, {birthplace}.",
                "nationality": "As to taste, mine is {nationality}.",
                "age": "For the record, my age at the end of 2024 was {age}.",
                "university": "I first saw it at the {university}.",
                "uuid": "My order was {uuid}.",
                "credit_card": "I paid with card {credit_card}.",
                "national_id": "They checked my identity number, {national_id}.",
            },
        ),
        Template(
            "Review. Customer: {name}. Rating: good. ",
            {
                "uuid": "Order: {uuid}.",
                "credit_card": "Paid with: {credit_card}.",
                "national_id": "Identified by: {national_id}.",
                "email": "Receipt to: {email}.",
                "phone": "Call back: {phone}.",
                "address": "Delivered to: {address}.",
                "city": "City: {city}.",
                "birth_date": "Customer born on: {birth_date}.",
                "birthplace": "Customer born in: {birthplace}.",
                "age": "Customer's age at the end of 2024: {age}.",
                "nationality": "Customer's nationality: {nationality}.",
                "occupation": "Customer's trade: {occupation}.",
                "employer": "Customer's firm: {employer}.",
                "university": "Customer's school: {university}.",
            },
        ),
    ),
    "comment": (
        Template(
            "{name} commented: good article. ",
            {
                "occupation": "I speak as one who works as {occupation}.",
                "employer": "We do the same at {employer}.",
                "university": "They taught us this at the {university}.",
                "city": "It is no different in {city}.",
                "birthplace": "Nor was it in my birthplace, {birthplace}.",
                "nationality": "My nationality is {nationality}.",
                "birth_date": "I have seen it all since {birth_date}.",
                "age": "At the end of 2024 my age was {age}.",
                "address": "Come and see for yourself at {address}.",
                "email": "Tell me more at {email}.",
                "phone": "Or ring me on {phone}.",
                "uuid": "My reader code is {uuid}.",
                "credit_card": "Charge my subscription to {credit_card}.",
                "national_id": "I sign with my identity number, {national_id}.",
            },
        ),
        Template(
            "Comment by {name}: I disagree. ",
            {
                "birth_date": "Nobody born on {birth_date} would say so.",
                "age": "Not at my age, at the end of 2024, of {age}.",
                "birthplace": "Nobody raised in {birthplace} would.",
                "nationality": "Nobody who is by nationality {nationality} would.",
                "city": "Nobody in {city} would.",
                "address": "Ask around {address}.",
                "university": "Ask the people of the {university}.",
                "employer": "Ask my team at {employer}.",
                "occupation": "It is my trade, {occupation}.",
                "phone": "Argue with me on {phone}.",
                "email": "Send proof to {email}.",
                "national_id": "My identity number, so you can check: {national_id}.",
                "credit_card": "I would bet my card, {credit_card}.",
                "uuid": "My commenter code: {uuid}.",
            },
        ),
    ),
    "advertisement": (
        Template(
            "{name} gives lessons! ",
            {
                "phone": "Call {phone}.",
                "email": "Write to {email}.",
                "city": "All over {city}.",
                "address": "Studio: {address}.",
                "occupation": "By profession: {occupation}.",
                "employer": "Experience: {employer}.",
                "university": "Trained at the {university}.",
                "nationality": "Nationality: {nationality}.",
                "birthplace": "A child of {birthplace}.",
                "birth_date": "Born on {birth_date}.",
                "age": "Age at the end of 2024: {age}.",
                "uuid": "Advert {uuid}.",
                "credit_card": "Refunds from card {credit_card}.",
                "national_id": "Trading under identity number {national_id}.",
            },
            closing=" Ask for {name}.",
        ),
        Template(
            "For hire: {name}. ",
            {
                "occupation": "Skill: {occupation}.",
                "university": "Diploma: {university}.",
                "employer": "Reference: {employer}.",
                "age": "Age at the end of 2024: {age}.",
                "birth_date": "Date of birth: {birth_date}.",
                "birthplace": "Place of birth: {birthplace}.",
                "nationality": "Citizen, {nationality}.",
                "city": "Area served: {city}.",
                "address": "Office: {address}.",
                "email": "Bookings by email: {email}.",
                "phone": "Bookings by phone: {phone}.",
                "credit_card": "Deposit returned from card: {credit_card}.",
                "national_id": "Licensed under identity number: {national_id}.",
                "uuid": "Listing: {uuid}.",
            },
        ),
    ),
    "chat": (
        Template(
            "{name} is online. ",
            {
                "birth_date": "Your birthday? {birth_date}.",
                "city": "Where do you live? {city}.",
                "address": "Which street? {address}.",
                "occupation": "Your job? {occupation}.",
                "employer": "Who pays you? {employer}.",
                "university": "Where did you study? {university}.",
                "birthplace": "Where were you born? {birthplace}.",
                "nationality": "Your nationality? {nationality}.",
                "age": "Your age at the end of 2024? {age}.",
                "phone": "Your phone? {phone}.",
                "email": "Your email? {email}.",
                "uuid": "Your user code? {uuid}.",
                "credit_card": "Your card number? {credit_card}.",
                "national_id": "Your identity number? {national_id}.",
            },
        ),
        Template(
            "Agent: hello, {name}. Caller: hello, please note ",
            {
                "phone": "my number {phone}",
                "email": "my mail {email}",
                "address": "my street {address}",
                "city": "my city {city}",
                "birth_date": "my birthday {birth_date}",
                "birthplace": "my birthplace {birthplace}",
                "age": "my age at the end of 2024, {age}",
                "nationality": "my nationality {nationality}",
                "occupation": "my job {occupation}",
                "employer": "my firm {employer}",
                "university": "my university, the {university}",
                "credit_card": "my card {credit_card}",
                "national_id": "my identity number {national_id}",
                "uuid": "my client code {uuid}",
            },
            between=", ",
            closing=". Agent: thank you, {name}.",
        ),
    ),
}
LEAST_TEMPLATES = min(len(templates) for templates in TEMPLATES.values())
