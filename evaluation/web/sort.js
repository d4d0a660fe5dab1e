// A click on a column's name sorts the table by it; a second click turns the order round.
const body = document.querySelector('table.runs tbody');
const headings = [...document.querySelectorAll('table.runs th')];
headings.forEach((heading, column) => heading.querySelector('button')?.addEventListener('click', () => {
  const up = heading.getAttribute('aria-sort') !== 'ascending';
  headings.forEach(other => other.removeAttribute('aria-sort'));
  heading.setAttribute('aria-sort', up ? 'ascending' : 'descending');
  const key = row => row.children[column].dataset.value;
  const compare = (a, b) => {
    if (key(a) === '' || key(b) === '') return (key(a) === '') - (key(b) === '');  // no figure: last
    const difference = heading.classList.contains('number') ? key(a) - key(b) : key(a).localeCompare(key(b));
    return up ? difference : -difference;
  };
  body.append(...[...body.rows].sort(compare));
}));
