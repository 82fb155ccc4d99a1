import { render } from 'preact';

import { Header } from './components/Header';
import { useLocation } from './lib/location';
import { useTheme } from './lib/theme';
import { QueryPage } from './pages/QueryPage';
import { TargetsPage } from './pages/TargetsPage';
import './style.css';

function App() {
  const { path, params } = useLocation();
  const [theme, toggle] = useTheme();
  const page = path === '/targets' ? '/targets' : '/query';
  return (
    <>
      <Header path={page} theme={theme} onTheme={toggle} />
      {page === '/targets' ? <TargetsPage /> : <QueryPage params={params} dark={theme === 'dark'} />}
    </>
  );
}

const root = document.getElementById('app');
if (root) render(<App />, root);
