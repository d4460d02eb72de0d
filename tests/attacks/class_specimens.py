"""What Python can do with functions in classes, to be looked at with and without gates."""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools


@dataclasses.dataclass(order=True)
class Record:
    number: int
    items: list = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.number += 1

    def doubled(self):
        return self.number * 2


class Colour(enum.Enum):
    RED = 1
    BLUE = 2

    def described(self):
        return self.name.lower()

    @classmethod
    def _missing_(cls, value):
        return cls.RED

    @property
    def squared(self):
        return self.value**2


class Abstract(abc.ABC):
    @abc.abstractmethod
    def method(self):
        return "base"

    @classmethod
    def __subclasshook__(cls, other):
        return NotImplemented


class Concrete(Abstract):
    def method(self):
        return super().method() + " " + __class__.__name__

    def __init_subclass__(cls, **options):
        super().__init_subclass__()
        cls.options = options

    def __class_getitem__(cls, key):
        return cls.__name__, key


class Sub(Concrete, flag=1):
    pass


class Meta(type):
    def __new__(cls, name, bases, namespace, **options):
        return super().__new__(cls, name, bases, namespace)

    def __call__(cls, *args):
        made = super().__call__(*args)
        made.marked = True
        return made

    @classmethod
    def __prepare__(cls, name, bases, **options):
        return {"prepared": True}


class WithMeta(metaclass=Meta, option=2):
    __slots__ = ("__dict__", "marked")

    def __init__(self, value=0):
        self.value = value

    def __getattr__(self, name):
        raise AttributeError(f"no {name}")

    def __del__(self):
        pass


class Descriptor:
    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner=None):
        return self.name, instance is None


class Context:
    described = Descriptor()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        return kind is KeyError


class Attributes:
    @property
    def value(self):
        return 1

    @value.setter
    def value(self, new):
        self.kept = new

    @value.deleter
    def value(self):
        self.kept = None

    @staticmethod
    def static(a):
        return a

    @classmethod
    def of_class(cls, a):
        return cls.__name__, a

    @functools.cached_property
    def cached(self):
        return object()

    @functools.lru_cache  # noqa: B019
    def memoised(self):
        return object()

    def __getitem__(self, index):
        return index

    def __iter__(self):
        yield 1

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1

    def __mangled(self):
        return __class__.__name__

    def calls_mangled(self):
        return self.__mangled()

    def __call__(self, *args, **kwargs):
        return args, kwargs

    def __getattribute__(self, name):
        return object.__getattribute__(self, name)
