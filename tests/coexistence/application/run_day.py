"""The application as it is started."""

from shop.work import day

if __name__ == "__main__":
    print(day())
